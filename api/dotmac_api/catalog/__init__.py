"""The catalog: releases and plans."""
