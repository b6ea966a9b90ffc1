"""Live commentary over WebSocket: clients send frames and receive words; on one machine or a Ray cluster."""
