"""Plans a run on TPUs that are not attached, from compiled or traced steps."""
