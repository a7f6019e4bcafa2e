"""Many boards, one model: federated training of Ultralytics models on Flower, simulated here or between machines."""
