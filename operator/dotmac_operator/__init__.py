"""DotMac Operator: drives Docker hosts towards what Server and Instance resources say."""
