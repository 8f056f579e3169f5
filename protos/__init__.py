"""The wire contract and what both programs must agree on."""
