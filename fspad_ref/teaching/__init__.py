"""For teaching only: exact distributions by enumeration, broken verification rules, exercises that check themselves."""
