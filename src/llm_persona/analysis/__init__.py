"""Statistics on recorded numbers. Nothing here touches a model."""
