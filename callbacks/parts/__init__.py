"""What plug-ins hold and share: no plug-in stands here."""
