"""The models and their training: encoders, the head, losses, the job a training process runs, the export for serving."""
