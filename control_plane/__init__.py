"""The control plane: ingest → journal → projections → reconcile → outbox → relay."""
