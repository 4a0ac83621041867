"""The operator: brings the cluster to what InferenceServices ask for. It never touches a GPU."""
