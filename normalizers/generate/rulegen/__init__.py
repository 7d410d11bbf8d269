"""Derives normalizer rules from public models of the AWS services."""
