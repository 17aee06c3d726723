"""Monte Carlo methods for `flatness`, `gaussian_mixture` and `committee`.

It imports none of these packages. The modules, from single moves to estimates from many chains:

* `drawing`: random numbers, and weights at a given overlap with others;
* `hamiltonian`, `refraction`: moves by Hamiltonian dynamics, for smooth and for piecewise constant
  energies;
* `exchange`: swaps of configurations between neighbouring temperatures;
* `direct`: energies of independent configurations, and the share of configurations of low energy;
* `free_energy`: free energies and shares from samples at many temperatures;
* `diagnostics`: whether chains have converged, and their number of effective draws.
"""
