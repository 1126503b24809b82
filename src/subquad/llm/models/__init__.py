"""Checkpoints with hybrid attention: conversion, cache, adapters."""
