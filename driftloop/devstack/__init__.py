"""Development stack: Kafka, Valkey and MLflow as child processes."""
