"""Runs the real parts (PostgreSQL, NATS, Envoy) and our services on one machine.

Every part is a foreground child of one supervisor and dies with it; nothing is ever daemonised.
"""
