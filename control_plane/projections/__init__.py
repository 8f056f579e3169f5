"""What follows from the journal: state, history, completeness. The cursor moves in the transaction that writes it."""

PROJECTIONS = {
    "state": "control_plane.projections.state:StateProjection",
    "history": "control_plane.projections.history:HistoryProjection",
    "completeness": "control_plane.projections.completeness:CompletenessProjection",
}
