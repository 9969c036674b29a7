"""Kafka: clients, followed topics, authentication and access control lists."""
