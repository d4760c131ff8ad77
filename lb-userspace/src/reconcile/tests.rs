//! Scenarios of a controller's life, with every write failing once.
