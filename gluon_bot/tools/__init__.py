"""Commands beside training: benchmark, doctor, export, figures, pictures, predict."""
