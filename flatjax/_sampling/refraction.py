r"""Hamiltonian dynamics on a sphere, with walls at which the energy jumps.

The energy counts errors. It is constant except where a pattern changes sides; only there a force
acts. A particle moves freely between such walls, along great circles. At a wall, the velocity
component normal to the wall exchanges energy: the particle is refracted, or reflected if it is too
slow. The dynamics is solved exactly, so that no move is ever rejected
[Pakman and Paninski, 2013; Mohasel Afshar and Domke, 2015].
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax._sampling.drawing import draw

FARTHEST = 1.0  # radians that a particle moves before it looks for walls again
MOST_WALLS = 100  # in a flight, per pattern and replica: rounding may hold a particle in a corner
LATE = 1e-4  # the particle may have passed a wall this long ago, because of rounding
ROUNDING = 1e-5  # of fields


class Walls(NamedTuple):
    r"""The walls. The fields of z, shape (y, N), are offset + mixing z design'.

    Attributes:
      design: the patterns, shape (n, N).
      gram: design design', shape (n, n).
      mixing: symmetric matrix between the y replicas, shape (y, y).
      offset: constant part of the fields, shape (n,).
      axis: unit vector, or 0, to which z is orthogonal, shape (N,).
      along: design axis, shape (n,).
      beta: height of a wall: the energy of a negative field.
    """

    design: jax.Array
    gram: jax.Array
    mixing: jax.Array
    offset: jax.Array
    axis: jax.Array
    along: jax.Array
    beta: jax.Array

    def fields(self, z: jax.Array) -> jax.Array:
        """Computes the fields without the offset, shape (y, n)."""
        return self.mixing @ (z @ self.design.T)

    def errors(self, fields: jax.Array) -> jax.Array:
        """Returns which fields, including the offset, are negative by more than rounding."""
        return self.offset + fields < -ROUNDING

    def orthogonal(self, z: jax.Array) -> jax.Array:
        """Projects z to the space orthogonal to the axis."""
        return z - (z @ self.axis)[:, None] * self.axis


def refraction_start(walls: Walls, key: chex.PRNGKey, start: jax.Array | None) -> jax.Array:
    """Draws a uniform z of norm sqrt(y N), or starts all replicas at `start`."""
    shape = len(walls.mixing), walls.axis.size
    z = draw(key, shape, 0)[0] if start is None else jnp.broadcast_to(start, shape)
    z = walls.orthogonal(z)
    return z * (jnp.sqrt(z.size) / jnp.linalg.norm(z))


def refraction_step(
    walls: Walls, duration: jax.Array
) -> Callable[[jax.Array, chex.PRNGKey], tuple[jax.Array, float]]:
    """Makes the move of a chain: (z, key) -> (next z, 1); no move is rejected."""

    def step(z, key):
        velocity, (uniform,) = draw(key, z.shape, 1)
        velocity = walls.orthogonal(velocity)
        velocity -= jnp.sum(velocity * z) / jnp.sum(z**2) * z
        # The duration is random, so that the particle does not return to its start.
        return fly(walls, z, velocity, duration * (0.5 + uniform)), 1.0

    return step


class _Flight(NamedTuple):
    z: jax.Array
    direction: jax.Array  # of the velocity, with the norm of z
    a: jax.Array  # fields of z
    d: jax.Array  # fields of the direction
    side: jax.Array  # side of each field's wall, -1 or 1
    speed: jax.Array  # radians per unit of time
    left: jax.Array  # remaining time
    count: jax.Array  # type: ignore[assignment]  # number of walls met


def fly(walls: Walls, z: jax.Array, velocity: jax.Array, duration: jax.Array) -> jax.Array:
    """Moves a particle on the sphere for a given time.

    Args:
      walls: the walls.
      z: start of the particle, orthogonal to the axis, shape (y, N).
      velocity: velocity, orthogonal to z and to the axis, shape (y, N).
      duration: duration of the flight.

    Returns:
      The end of the flight, shape (y, N).
    """
    radius = jnp.linalg.norm(z)
    speed = jnp.linalg.norm(velocity) / radius
    direction = velocity / speed
    a, d = walls.fields(z), walls.fields(direction)
    side = jnp.where(walls.errors(a), -1.0, 1.0)
    metric = walls.mixing @ walls.mixing

    def advance(now: _Flight) -> _Flight:
        now, replica, pattern, hit = _move(walls, now)
        return _meet(walls, metric, radius, now, replica, pattern, hit)

    most_walls = MOST_WALLS * a.size
    go_on = lambda now: (now.left > 0) & (now.count < most_walls)
    start = _Flight(z, direction, a, d, side, speed, duration, jnp.asarray(0))
    z = jax.lax.while_loop(go_on, advance, start).z
    z = walls.orthogonal(z)
    return z * (radius / jnp.linalg.norm(z))  # keeps rounding errors from adding up


def _move(walls, now):
    """Moves freely to the next wall, the flight's end, or for the length FARTHEST.

    Returns the flight there, the replica and pattern of the next wall, and whether it is reached.
    """
    times = _crossing(now.side * now.a, now.side * now.d, now.side * walls.offset)
    replica, pattern = jnp.unravel_index(jnp.argmin(times), times.shape)
    first = times[replica, pattern]
    angle_left = now.speed * now.left
    last = jnp.tan(jnp.minimum(angle_left, FARTHEST) / 2)
    hit = first < last
    half = jnp.minimum(first, last)  # tangent of half the angle to the next wall
    cos, sin = (1 - half**2) / (1 + half**2), 2 * half / (1 + half**2)
    turn = lambda u, v: (cos * u + sin * v, cos * v - sin * u)
    z, direction = turn(now.z, now.direction)
    a, d = turn(now.a, now.d)
    arrived = ~hit & (angle_left <= FARTHEST)
    left = jnp.where(arrived, 0.0, now.left - 2 * jnp.arctan(half) / now.speed)
    moved = _Flight(z, direction, a, d, now.side, now.speed, left, now.count + hit)
    return moved, replica, pattern, hit


def _meet(walls, metric, radius, now, replica, pattern, hit):
    """Refracts or reflects a flight at a wall, if the wall is reached.

    The normal of the wall, tangent to the sphere, is
    mixing[replica] design[pattern] - a z / radius^2, projected orthogonal to the axis.
    """
    pick = lambda fields: fields[replica, pattern]
    at, along = pick(now.a), walls.along[pattern]
    column, row = walls.mixing[:, replica, None], metric[:, replica, None]
    square = metric[replica, replica] * (walls.gram[pattern, pattern] - along**2)
    length = jnp.sqrt(square - (at / radius) ** 2)
    normal_velocity = now.speed * pick(now.d) / length
    rise = walls.beta * pick(now.side)
    energy = normal_velocity**2 - 2 * rise
    through = hit & (energy > 0)
    refracted = jnp.sign(normal_velocity) * jnp.sqrt(jnp.maximum(energy, 0))
    kick = jnp.where(through, refracted, -normal_velocity) - normal_velocity
    kick = jnp.where(hit, kick / length, 0)
    speed = jnp.sqrt(now.speed**2 - jnp.where(through, 2 * rise / radius**2, 0))
    gram = walls.gram[pattern] - along * walls.along
    normal = walls.design[pattern] - along * walls.axis
    pushed = lambda u, force: (now.speed * u + kick * force) / speed
    return now._replace(
        direction=pushed(now.direction, column * normal - at * now.z / radius**2),
        d=pushed(now.d, row * gram - at * now.a / radius**2),
        side=now.side.at[replica, pattern].multiply(jnp.where(through, -1, 1)),
        speed=speed,
    )


def _crossing(a, d, c):
    """Finds where c + a cos(x) + d sin(x), positive at 0, turns negative: tan(x / 2).

    The result is infinite if x is not below pi.
    """
    # A root of (c - a) tau^2 + 2 d tau + (c + a), tau = tan(x / 2), without cancellation.
    root = jnp.sqrt(d**2 + a**2 - c**2)
    tau = jnp.where(d > 0, -(d + root) / (c - a), (c + a) / (root - d))
    return jnp.where(tau > -LATE, jnp.maximum(tau, 0), jnp.inf)
