"""Watches: each follows the history at its own pace.

A watcher keeps no queue, only the resourceVersion it has come to; it reads on from there in the shared history. So a
slow one costs nothing and holds up nobody. One that falls behind the history gets the 410 that tells it to list again.
"""
