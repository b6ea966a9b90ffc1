"""Live commentary over the network: frames in and words out by WebSocket, on one machine or on a Ray cluster."""
