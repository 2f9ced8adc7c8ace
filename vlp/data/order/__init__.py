"""Which sample comes when: every order is a pure function of the seed and the position."""
