"""Look at the data, the model and the results: Interpretation, show_batch, show_results, summary."""
