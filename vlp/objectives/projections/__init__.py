"""What a head does to the rows that it reads; one file per kind."""
