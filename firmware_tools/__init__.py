"""Around the robot: the service, its device rules, and what switches the servos off when nothing else is left."""
