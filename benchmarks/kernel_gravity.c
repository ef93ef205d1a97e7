/* Direct summation as one would write it in C: a yardstick for pipelines/kernels/gravity.py.

   One array for each coordinate, and targets shared among threads. It is compiled twice, for double
   and with -DREAL=float, with -ffast-math, so that the inner loop becomes vectors. A body pulls
   itself with nothing, for its distance is 0; softening has to be above 0. */

#include <tgmath.h>

#ifndef REAL
#define REAL double
#endif

void accelerations(const REAL *restrict x, const REAL *restrict y, const REAL *restrict z,
                   const REAL *restrict mass, long bodies, REAL softening, REAL g,
                   REAL *restrict ax, REAL *restrict ay, REAL *restrict az, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < bodies; i++) {
        REAL xi = x[i], yi = y[i], zi = z[i], sx = 0, sy = 0, sz = 0;
        for (long j = 0; j < bodies; j++) {
            REAL dx = x[j] - xi, dy = y[j] - yi, dz = z[j] - zi;
            REAL square = dx * dx + dy * dy + dz * dz + softening * softening;
            REAL weight = mass[j] / (square * sqrt(square));
            sx += weight * dx;
            sy += weight * dy;
            sz += weight * dz;
        }
        ax[i] = g * sx;
        ay[i] = g * sy;
        az[i] = g * sz;
    }
}
