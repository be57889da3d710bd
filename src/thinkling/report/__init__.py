"""The report: evidence read from run folders, said in words, drawn, and put on one page that opens offline."""
