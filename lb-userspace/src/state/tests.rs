//! Placement of Call-IDs as users count on it.
