"""Kafka, Valkey and MLflow as child processes, with nothing installed."""
