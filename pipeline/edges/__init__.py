"""The outside world, one system per module: MQTT, recordings, the journal, the archive, label events."""
