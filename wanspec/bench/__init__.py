"""Policies side by side on real servers: what is asked, what is measured, what is made of it."""
