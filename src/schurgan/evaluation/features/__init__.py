"""From images or sounds to features."""
