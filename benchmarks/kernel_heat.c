/* Heat conduction as one would write it in C: a yardstick for pipelines/kernels/heat.py.

   The update of its docstring, all rows of a step shared among threads that live over all steps and
   meet after each (the barrier at the end of `omp for`). */

static void row(const double *restrict old, double *restrict fresh, long columns, double mixing)
{
    const double *up = old - columns, *down = old + columns, keep = 1.0 - 4.0 * mixing;
    for (long j = 1; j < columns - 1; j++)
        fresh[j] = mixing * ((up[j] + down[j]) + (old[j - 1] + old[j + 1])) + keep * old[j];
}

/* Temperatures (y, x) in `even`, the same edges in `odd`; the result is in `even` if `steps` is. */
void advance(double *even, double *odd, long rows, long columns, double mixing, long steps,
             int threads)
{
#pragma omp parallel num_threads(threads)
    {
        double *old = even, *fresh = odd;
        for (long step = 0; step < steps; step++) {
#pragma omp for schedule(static)
            for (long i = 1; i < rows - 1; i++)
                row(old + i * columns, fresh + i * columns, columns, mixing);
            double *swap = old;
            old = fresh;
            fresh = swap;
        }
    }
}
