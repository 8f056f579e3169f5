"""What follows from the journal: state, history, completeness. Restartable; the cursor moves in the same transaction."""

PROJECTIONS = {
    "state": "control_plane.projections.state:StateProjection",
    "history": "control_plane.projections.history:HistoryProjection",
    "completeness": "control_plane.projections.completeness:CompletenessProjection",
}
