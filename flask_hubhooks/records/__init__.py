"""The stored records: tables, the states of deliveries, webhooks and the history."""
