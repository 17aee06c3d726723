r"""Hamiltonian dynamics on a sphere, through walls at which the energy jumps.

The number of errors is constant but for jumps where a pattern changes sides, and its only force is
there. A particle moves freely between walls, along great circles, and at a wall exchanges energy
with the component of its velocity normal to it: it is refracted, or reflected if it is too slow.
The dynamics is solved exactly, so that no move is ever rejected
[Pakman and Paninski, 2013; Mohasel Afshar and Domke, 2015].
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from flatjax._sampling.drawing import draw

FARTHEST = 1.0  # radians that a particle moves before it looks for walls again
MOST_WALLS = 100  # met in a flight, for each pattern and replica: rounding may hold it in a corner
LATE = 1e-4  # how long ago, by rounding, a wall may have been passed
ROUNDING = 1e-5  # of fields


class Walls(NamedTuple):
    r"""Where walls are: the fields of z, shape (y, N), are offset + mixing z design'.

    Attributes:
      design: shape (n, N).
      gram: design design', shape (n, n).
      mixing: symmetric, shape (y, y).
      offset: shape (n,).
      axis: unit vector, or 0, that z is orthogonal to, shape (N,).
      along: design axis, shape (n,).
      beta: height of a wall: the energy where a field is negative.
    """

    design: jax.Array
    gram: jax.Array
    mixing: jax.Array
    offset: jax.Array
    axis: jax.Array
    along: jax.Array
    beta: jax.Array

    def fields(self, z: jax.Array) -> jax.Array:
        """Fields but for the offset, shape (y, n)."""
        return self.mixing @ (z @ self.design.T)

    def errors(self, fields: jax.Array) -> jax.Array:
        """Which fields, with the offset, are negative by more than rounding."""
        return self.offset + fields < -ROUNDING

    def orthogonal(self, z: jax.Array) -> jax.Array:
        """The part of z that is orthogonal to the axis."""
        return z - (z @ self.axis)[:, None] * self.axis


def refraction_start(walls: Walls, key: chex.PRNGKey, start: jax.Array | None) -> jax.Array:
    """A uniform z, of norm sqrt(y N); or that of replicas which are all in the same place."""
    shape = len(walls.mixing), walls.axis.size
    z = draw(key, shape, 0)[0] if start is None else jnp.broadcast_to(start, shape)
    z = walls.orthogonal(z)
    return z * (jnp.sqrt(z.size) / jnp.linalg.norm(z))


def refraction_step(
    walls: Walls, duration: jax.Array
) -> Callable[[jax.Array, chex.PRNGKey], tuple[jax.Array, float]]:
    """The move of a chain: (z, key) -> next z, 1, because no move is rejected."""

    def step(z, key):
        velocity, (uniform,) = draw(key, z.shape, 1)
        velocity = walls.orthogonal(velocity)
        velocity -= jnp.sum(velocity * z) / jnp.sum(z**2) * z
        # Of random duration, lest it come back.
        return fly(walls, z, velocity, duration * (0.5 + uniform)), 1.0

    return step


class _Flight(NamedTuple):
    z: jax.Array
    direction: jax.Array  # of the velocity, as long as z
    a: jax.Array  # fields of z
    d: jax.Array  # fields of the direction
    side: jax.Array  # of the wall of each field, -1 or 1
    speed: jax.Array  # radians per unit of time
    left: jax.Array  # time to go
    count: jax.Array  # type: ignore[assignment]  # of walls met


def fly(walls: Walls, z: jax.Array, velocity: jax.Array, duration: jax.Array) -> jax.Array:
    """Moves a particle on the sphere for a given time.

    Args:
      walls: where they are.
      z: where it starts, orthogonal to the axis, shape (y, N).
      velocity: orthogonal to z and to the axis, shape (y, N).
      duration: time.

    Returns:
      Where it ends, shape (y, N).
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
    return z * (radius / jnp.linalg.norm(z))  # no rounding adds up


def _move(walls, now):
    """Moves freely to the next wall, the end of the flight, or as far as walls are looked for.

    Returns the flight there, the replica and pattern of the next wall, and whether it is met.
    """
    times = _crossing(now.side * now.a, now.side * now.d, now.side * walls.offset)
    replica, pattern = jnp.unravel_index(jnp.argmin(times), times.shape)
    first = times[replica, pattern]
    angle_left = now.speed * now.left
    last = jnp.tan(jnp.minimum(angle_left, FARTHEST) / 2)
    hit = first < last
    half = jnp.minimum(first, last)  # tangent of half the angle
    cos, sin = (1 - half**2) / (1 + half**2), 2 * half / (1 + half**2)
    turn = lambda u, v: (cos * u + sin * v, cos * v - sin * u)
    z, direction = turn(now.z, now.direction)
    a, d = turn(now.a, now.d)
    arrived = ~hit & (angle_left <= FARTHEST)
    left = jnp.where(arrived, 0.0, now.left - 2 * jnp.arctan(half) / now.speed)
    moved = _Flight(z, direction, a, d, now.side, now.speed, left, now.count + hit)
    return moved, replica, pattern, hit


def _meet(walls, metric, radius, now, replica, pattern, hit):
    """Refracts or reflects a flight at a wall, if it is met.

    The normal of the wall, tangent to the sphere, is
    mixing[replica] design[pattern] - a z / radius^2 without the part along the axis.
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
    """Tangent of half the angle at which c + a cos + d sin, positive at 0, becomes negative.

    Infinite if that is not below pi.
    """
    # A root of (c - a) tau^2 + 2 d tau + (c + a), tau = tan(angle / 2), without cancellation.
    root = jnp.sqrt(d**2 + a**2 - c**2)
    tau = jnp.where(d > 0, -(d + root) / (c - a), (c + a) / (root - d))
    return jnp.where(tau > -LATE, jnp.maximum(tau, 0), jnp.inf)
