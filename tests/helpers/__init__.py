"""What several tests share: a Hub, references, tiny trainers, the pages' blocks."""
