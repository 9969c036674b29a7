"""Kernel: settings, messages, clients and models that every process needs."""
