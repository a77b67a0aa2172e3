"""Many runs: sweeps and lottery tickets."""
