"""The placements of `map_replicas`, for the tests of what all must satisfy."""

from devices import devices

import flatjax

# Shapes of meshes of four replicas: devices along the axes "replica" and "data".
MESHES = {"4x2": (4, 2), "2x1": (2, 1), "2x4": (2, 4)}
PLACEMENTS = ["vmap", "unroll", "auto", *MESHES, "auto_mesh"]


def mesh(name):
    """One of the meshes; skips a test for which there are not enough devices."""
    replica, data = MESHES[name]
    return flatjax.replica_mesh(replica, devices(replica * data))


def placed(name):
    """The options of `map_replicas` that mean a placement."""
    if name in MESHES:
        return {"placement": "mesh", "mesh": mesh(name)}
    options = {"vmap": {"placement": "vmap"}, "unroll": {"placement": "unroll"}, "auto": {}}
    return {"mesh": mesh("4x2")} if name == "auto_mesh" else options[name]
