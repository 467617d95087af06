"""Units: which parameters form one, their scores, and selections of them."""
