"""Bodies that a run of `nbody` begins with: drawn from a law, on a known orbit, or from a file.

Masses are (body,), positions and velocities (body, xyz), float64. What is drawn or known is given
for a constant of gravity g = 1; for another one, its velocities go with the root of g.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DEFAULT = 200  # bodies of a profile that leaves their number open


class Bodies(NamedTuple):
    """Bodies at the start: masses (body,), positions and velocities (body, xyz)."""

    initial_mass: np.ndarray
    initial_position: np.ndarray
    initial_velocity: np.ndarray


def gaussian(n: int, rng: np.random.Generator) -> Bodies:
    """Draw masses uniform in [0, 1), positions standard normal; at rest."""
    return Bodies(rng.random(n), rng.standard_normal((n, 3)), np.zeros((n, 3)))


def plummer(n: int, rng: np.random.Generator) -> Bodies:
    """Draw a sphere of equal masses in equilibrium: mass 1 and, but for scatter, energy -1/4.

    These are N-body units (Heggie & Mathieu 1986); the scale radius is 3 pi / 16. Source: Aarseth,
    Henon & Wielen 1974, Astron. Astrophys. 37, 183, appendix. They draw the speed q (in units of
    that of escape) by rejection from q^2 (1 - q^2)^(7/2); that is the law of the root of a
    beta(3/2, 9/2) variate, which is drawn here.
    """
    scale = 3 * np.pi / 16
    enclosed = rng.random(n) ** (1 / 3)  # third root of the mass inside the body's radius
    radius = enclosed / np.sqrt(1 - enclosed**2)
    speed = np.sqrt(rng.beta(1.5, 4.5, n)) * np.sqrt(2) * (1 + radius**2) ** -0.25
    position = scale * radius[:, None] * directions(n, rng)
    velocity = scale**-0.5 * speed[:, None] * directions(n, rng)
    return equal_masses(position, velocity)


def cold_sphere(n: int, rng: np.random.Generator) -> Bodies:
    """Draw equal masses of sum 1, uniform in a sphere of radius 1, at rest: it falls in on itself.

    A homogeneous sphere would meet in its centre after pi / 8^(1/2) = 1.11.
    """
    position = rng.random((n, 1)) ** (1 / 3) * directions(n, rng)
    return equal_masses(position, np.zeros((n, 3)))


def disk(n: int, rng: np.random.Generator) -> Bodies:
    """Draw equal masses of sum 0.1 on circles in a plane disk around a mass of 0.9, body 0.

    The disk is Kuzmin's (Binney & Tremaine 2008, Galactic Dynamics, equations 2.68 and 2.69) of
    scale radius 1 and potential -(R^2 + 1)^(-1/2), cut at R = 1/4 and 10; it turns about z.
    """
    centre, mass = 0.9, 0.1
    outside = rng.uniform((10**2 + 1) ** -0.5, (1 / 4**2 + 1) ** -0.5, n - 1)  # mass beyond R
    radius, angle = np.sqrt(outside**-2 - 1), rng.uniform(0, 2 * np.pi, n - 1)
    speed = np.sqrt(centre / radius + mass * radius**2 * (radius**2 + 1) ** -1.5)
    zero = np.zeros(n - 1)
    position, velocity = np.zeros((n, 3)), np.zeros((n, 3))
    position[1:] = radius[:, None] * np.stack([np.cos(angle), np.sin(angle), zero], axis=1)
    velocity[1:] = speed[:, None] * np.stack([-np.sin(angle), np.cos(angle), zero], axis=1)
    masses = np.full(n, mass / (n - 1))
    masses[0] = centre
    return Bodies(masses, position - masses @ position, velocity - masses @ velocity)


def directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n unit vectors (body, xyz), uniform on the sphere (Muller 1959: scaled normal ones)."""
    vectors = rng.standard_normal((n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def equal_masses(position: np.ndarray, velocity: np.ndarray) -> Bodies:
    """Return bodies of total mass 1 whose centre is moved to 0 and brought to rest."""
    n = len(position)
    position, velocity = position - position.mean(axis=0), velocity - velocity.mean(axis=0)
    return Bodies(np.full(n, 1 / n), position, velocity)


def two_body(eccentricity: float) -> Bodies:
    """Return two masses of 1/2 on an ellipse of semi-major axis 1 about each other.

    They are farthest apart, on x. The period is 2 pi.
    """
    far, slow = 1 + eccentricity, np.sqrt((1 - eccentricity) / (1 + eccentricity))
    position = np.array([[far / 2, 0, 0], [-far / 2, 0, 0]])
    velocity = np.array([[0, slow / 2, 0], [0, -slow / 2, 0]])
    return Bodies(np.full(2, 0.5), position, velocity)


def figure_eight() -> Bodies:
    """Return three masses of 1 that follow each other on an eight; the period is 6.32591398.

    Source: Chenciner & Montgomery 2000, Ann. Math. 152, 881 (numbers by C. Simo).
    """
    end, fast = np.array([0.97000436, -0.24308753, 0]), np.array([-0.93240737, -0.86473146, 0])
    return Bodies(
        np.ones(3), np.stack([end, -end, 0 * end]), np.stack([-fast / 2, -fast / 2, fast])
    )


def pythagorean() -> Bodies:
    """Return masses of 3, 4 and 5 at rest, opposite to the sides 3, 4 and 5 of a triangle.

    Source: Burrau 1913, Astron. Nachr. 195, 113; followed to its end by Szebehely & Peters 1967,
    Astron. J. 72, 876.
    """
    position = np.array([[1.0, 3, 0], [-2, -1, 0], [1, -1, 0]])
    return Bodies(np.array([3.0, 4, 5]), position, np.zeros((3, 3)))


DRAWN: Mapping[str, Callable[[int, np.random.Generator], Bodies]] = {
    "gaussian": gaussian,
    "plummer": plummer,
    "cold-sphere": cold_sphere,
    "disk": disk,
}
KNOWN: Mapping[str, Callable[[float], Bodies]] = {
    "two-body": two_body,
    "figure-eight": lambda eccentricity: figure_eight(),
    "pythagorean": lambda eccentricity: pythagorean(),
}
FILES = (".npz", ".zarr")


def number_of_bodies(n: int | None, profile: str) -> int:
    """Return how many bodies a profile has, where n is what was asked for, or None.

    Raises ValueError where that is not possible, and what `read` raises.
    """
    if profile in DRAWN:
        count = DEFAULT if n is None else n
        if count < 2:
            raise ValueError(f"n = {n}: take at least 2 bodies.")
        return count
    if profile in KNOWN:
        count = len(KNOWN[profile](0.0).initial_mass)
    elif profile.endswith(FILES):
        count = len(read(profile).initial_mass)
    else:
        raise ValueError(
            f"profile = {profile!r} is unknown: take one of {', '.join([*DRAWN, *KNOWN])}, or the "
            "path of a file of bodies that ends in .npz or .zarr."
        )
    if n not in (None, count):
        raise ValueError(
            f"n = {n}, but profile = {profile!r} has {count} bodies: leave n out, or take {count}."
        )
    return count


def read(path: str) -> Bodies:
    """Read mass (body,), position and velocity (body, xyz) from a .npz file or a .zarr group.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read or does not
    hold what bodies are: an array is missing, of another shape, or not of finite real numbers; a
    mass is below 0; or there are fewer than 2 bodies. Nothing is ever unpickled.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"profile = {path!r}: there is no such file (in {Path.cwd()}).")
    names = ("mass", "position", "velocity")
    arrays = arrays_of_zarr(path, names) if path.endswith(".zarr") else arrays_of_npz(path, names)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} has no array {' and no array '.join(map(repr, missing))}: it must hold mass "
            "(body,), position (body, xyz) and velocity (body, xyz)."
        )
    bodies = len(arrays["mass"]) if arrays["mass"].ndim == 1 else "bodies"
    for name, shape in zip(names, [(bodies,), (bodies, 3), (bodies, 3)], strict=True):
        refuse(path, name, arrays[name], shape)
    return Bodies(*(np.array(arrays[name], dtype=np.float64) for name in names))


def refuse(path: str, name: str, array: np.ndarray, shape: tuple[int | str, ...]) -> None:
    """Raise ValueError where an array of a file is not what bodies need."""
    if array.shape != shape:
        wanted = str(shape).replace("'", "")
        raise ValueError(f"{name} in {path} has shape {array.shape}: it must be {wanted}.")
    if shape[0] in (0, 1):
        raise ValueError(f"{path} holds {shape[0]} bodies: at least 2 are needed.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} in {path} is of type {array.dtype}: it must be of real numbers.")
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float64))
    if not finite.all():
        body = int(np.argwhere(~finite)[0][0])
        raise ValueError(
            f"{name} of body {body} in {path} is {array[body]}: it must be finite, in float64."
        )
    if name == "mass" and (array < 0).any():
        body = int(np.argmax(array < 0))
        raise ValueError(f"mass of body {body} in {path} is {array[body]}: it must be 0 or more.")


def arrays_of_npz(path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return those of the named arrays that a .npz file has."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file}
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a .npz file of numbers: {error}") from error


def arrays_of_zarr(path: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return those of the named arrays that a .zarr group has."""
    import zarr  # half a second that nobody else should wait for

    try:
        group: Any = zarr.open_group(path, mode="r")
        return {name: np.asarray(group[name][...]) for name in names if name in group}
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a .zarr group of arrays: {error}") from error
