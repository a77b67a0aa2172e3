"""How a rule runs inside Optax: sparsify, masks, latent weights, state, plan, topology step."""
