"""Rotations of a layer's units: uniform ones, their powers, and what to compare them with (methods 5.2 - 5.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AT_MINUS_ONE = 1e-7
"""Eigenvalues so near to -1 are taken for it."""
CLOSE = 1e-4
"""Eigenvalues of which no correction of their vectors can be told."""
BLEND = 0.7234
"""Angle that mixes the symmetric and the skew part: any will do that makes no two eigenvalues equal by chance."""
ORTHOGONAL = 1e-10
"""How far from orthogonal a matrix may be, at its worst entry."""


def haar_rotation(n: int, seed: int) -> NDArray[np.float64]:
    """A rotation drawn uniformly from SO(n).

    Parameters
    ----------
    n : int
        Units.
    seed : int
        The matrix depends on (seed, n) alone.

    Returns
    -------
    float64 (n, n)
        Orthogonal, of determinant 1.

    Notes
    -----
    Source: methods 5.2. Of the QR decomposition of Gaussian numbers, columns take the signs that make it unique; a
    reflection becomes a rotation by turning its first row round.
    """
    normal = np.random.default_rng((seed, n)).standard_normal((n, n))
    q, r = np.linalg.qr(normal)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    if np.linalg.slogdet(q)[0] < 0:
        q[0] *= -1
    return np.asarray(q, np.float64)


@dataclass(frozen=True)
class RotationPowers:
    """An orthogonal matrix taken apart into turns of planes, so that it can be taken to any power.

    Notes
    -----
    Source: methods 5.3. An orthogonal matrix is normal: it has an orthonormal basis of complex eigenvectors, those of
    each turned plane a conjugate pair with the signed angle in their eigenvalues. Axes that are turned round, the
    eigenvalues -1, are paired into planes turned by half a circle; which with which is arbitrary.
    """

    matrix: NDArray[np.float64]
    """(n, n)"""
    vectors: NDArray[np.complex128]
    """(n, v) orthonormal eigenvectors, those of the eigenvalue -1 aside."""
    angles: NDArray[np.float64]
    """(v,) of their eigenvalues, between -pi and pi."""
    reversed_axes: NDArray[np.float64]
    """(n, r) orthonormal basis of what is turned round."""

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> RotationPowers:
        """Take a matrix apart. ValueError where it is not orthogonal."""
        n = len(matrix)
        if matrix.shape != (n, n) or not np.allclose(matrix.T @ matrix, np.eye(n), rtol=0, atol=ORTHOGONAL):
            raise ValueError("only orthogonal matrices have such powers")
        vectors, values = eigenvectors(matrix)
        is_reversed = np.abs(values + 1) < AT_MINUS_ONE
        n_reversed = int(is_reversed.sum())
        reversed_axes = np.zeros((n, 0))
        if n_reversed:
            # the projection on them is real, though the eigenvectors found need not be
            space = vectors[:, is_reversed]
            reversed_axes = np.linalg.eigh((space @ space.conj().T).real)[1][:, n - n_reversed :]
        kept = ~is_reversed
        return cls(matrix, vectors[:, kept], np.angle(values[kept]), reversed_axes)

    @property
    def is_rotation(self) -> bool:
        """Whether the determinant is 1."""
        return bool(self.reversed_axes.shape[1] % 2 == 0)

    @property
    def length(self) -> float:
        """Of the shortest way to it from the identity: the norm of its logarithm, sqrt(2 sum theta^2)."""
        turns = float(np.square(self.angles).sum()) + self.reversed_axes.shape[1] * np.pi**2
        return float(np.sqrt(turns))

    def power(self, alpha: float) -> NDArray[np.float64]:
        """The matrix to a power; exactly the identity and the matrix itself at 0 and 1.

        Raises
        ------
        ValueError
            The determinant is -1 and 0 < alpha < 1: no way leads there from the identity.
        """
        if alpha == 0:
            return np.eye(len(self.matrix))
        if alpha == 1:
            return self.matrix.copy()
        if not self.is_rotation:
            raise ValueError("a matrix of determinant -1 has no real power between the identity and itself")
        turned: NDArray[np.float64] = ((self.vectors * np.exp(1j * alpha * self.angles)) @ self.vectors.conj().T).real
        first, second = self.reversed_axes[:, 0::2], self.reversed_axes[:, 1::2]
        cosine, sine = np.cos(alpha * np.pi), np.sin(alpha * np.pi)
        turned += cosine * (self.reversed_axes @ self.reversed_axes.T)
        turned += sine * (second @ first.T - first @ second.T)
        return turned


def eigenvectors(matrix: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Orthonormal eigenvectors (n, n) of an orthogonal matrix, as columns, and its eigenvalues (n,).

    The symmetric part and i times the skew part are Hermitian and have them in common, with cosines and sines for
    eigenvalues; so has a blend of the two, in which planes turned by opposite angles differ. Two unlike eigenvalues may
    come close in the blend, and their vectors be mixed by rounding; the matrix itself tells them apart afterwards.
    """
    symmetric, skew = (matrix + matrix.T) / 2, (matrix - matrix.T) / 2
    vectors = np.linalg.eigh(np.cos(BLEND) * symmetric + 1j * np.sin(BLEND) * skew)[1]
    for _ in range(2):
        image = vectors.conj().T @ (matrix @ vectors)
        values = np.diag(image)
        gap = values[None, :] - values[:, None]
        mixed = np.abs(gap) > CLOSE
        vectors = orthonormal(vectors + vectors @ np.divide(image, gap, out=np.zeros_like(image), where=mixed))
    values = np.einsum("ij,ij->j", vectors.conj(), matrix @ vectors)
    return vectors, values / np.abs(values)


def orthonormal(vectors: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The nearest orthonormal columns to columns that nearly are: one step of Newton's."""
    return np.asarray(vectors @ (1.5 * np.eye(vectors.shape[1]) - 0.5 * (vectors.conj().T @ vectors)))


def mean_diagonal(alpha: float) -> float:
    """What the diagonal of a large uniform rotation to a power is on average: sin(pi alpha) / (pi alpha)."""
    return float(np.sinc(alpha))


def permutation(n: int, seed: int) -> NDArray[np.float64]:
    """Rows of the identity (n, n) in a random order."""
    return np.eye(n)[np.random.default_rng((seed, n, 1)).permutation(n)]


def signed_permutation(n: int, seed: int) -> NDArray[np.float64]:
    """A permutation with every second of its rows, on average, turned round."""
    signs = np.random.default_rng((seed, n, 2)).choice((-1.0, 1.0), n)
    return signs[:, None] * permutation(n, seed)


def scaling(n: int, seed: int) -> NDArray[np.float64]:
    """Each unit by a power of two, 1/8 to 8: float32 does it exactly, so that no value can come to tie with another."""
    return np.diag(2.0 ** np.random.default_rng((seed, n, 3)).integers(-3, 4, n))


def givens(n: int, seed: int, degrees: float) -> NDArray[np.float64]:
    """One random pair of axes turned by an angle, (a_i, a_j) -> (c a_i - s a_j, s a_i + c a_j)."""
    i, j = np.random.default_rng((seed, n, 4)).choice(n, 2, replace=False).tolist()
    cosine, sine = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))
    if degrees == 90:
        cosine = 0.0  # which cos(pi / 2) is not in floating point
    turned = np.eye(n)
    turned[i, i] = turned[j, j] = cosine
    turned[i, j], turned[j, i] = -sine, sine
    return turned


def near_identity(n: int, seed: int, sigma: float) -> NDArray[np.float64]:
    """The orthogonal matrix nearest to I + sigma N / sqrt(2 n), N of standard normal entries."""
    normal = np.random.default_rng((seed, n, 5)).standard_normal((n, n))
    left, _, right = np.linalg.svd(np.eye(n) + sigma / np.sqrt(2 * n) * normal)
    return np.asarray(left @ right, np.float64)


def principal_axes(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows: the eigenvectors of a covariance (n, n), the largest first, each with its largest entry positive."""
    axes = np.linalg.eigh(covariance)[1][:, ::-1].T
    return axes * sign_of_largest(axes)[:, None]


def sign_of_largest(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,) the sign of each row's entry of largest magnitude."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest < 0, -1.0, 1.0)
