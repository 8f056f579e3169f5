"""What follows from the journal: state, history, completeness. The cursor moves in the transaction that writes it."""

PROJECTIONS = {
    "boots": "control_plane.projections.boots:BootsProjection",
    "state": "control_plane.projections.state:StateProjection",
    "history": "control_plane.projections.history:HistoryProjection",
    "ledger": "control_plane.projections.ledger:LedgerProjection",
    "completeness": "control_plane.projections.completeness:CompletenessProjection",
}
