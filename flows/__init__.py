"""In what order the steps run: one short function a flow, and the command line."""
