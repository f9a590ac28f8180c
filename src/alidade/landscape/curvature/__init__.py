"""Second derivatives of the loss: products with the Hessian, its eigenvalues, trace and spectrum."""
