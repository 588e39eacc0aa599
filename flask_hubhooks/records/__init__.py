"""Everything that is stored: tables, the state of deliveries, webhooks and the history."""
