"""Installations to break, proxies between stores and services, load, and the audit of what arrived."""
