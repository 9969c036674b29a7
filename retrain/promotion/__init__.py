"""Promotion: registration, promotion, restoration, and the first champion."""
