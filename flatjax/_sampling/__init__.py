"""Monte Carlo for `flatness`, `gaussian_mixture` and `committee`, none of which it imports.

The modules, from moves of single chains to estimates from many:

* `drawing`: random numbers, and weights at a given overlap with others;
* `hamiltonian`, `refraction`: moves by Hamiltonian dynamics, of smooth and of piecewise constant
  energies;
* `exchange`: swaps of configurations between neighbouring temperatures;
* `direct`: energies of independent configurations, and the share of them that is low;
* `free_energy`: free energies and shares from samples at many temperatures;
* `diagnostics`: whether chains have converged, and how many independent draws they are worth.
"""
