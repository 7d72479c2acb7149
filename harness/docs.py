"""Write the generated tables of README and docs anew. python harness/docs.py"""

from harness.reporting.documents import main

if __name__ == "__main__":
    main()
