"""Promotion: registration, promotion, rollback and the first champion."""
